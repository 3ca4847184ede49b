"""Applications are asked, as their clients would ask them, whether they answer from the VIP."""
