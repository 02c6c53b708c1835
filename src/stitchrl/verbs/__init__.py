"""What the command's verbs do, one module for each that belongs together; they parse flags, call the library, and print."""
