"""Reports, plots and cards, made from the plain files of run directories; never imports torch."""
