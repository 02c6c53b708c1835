"""Networks: how tensors become features, values and action distributions."""
