"""Deciding and doing, pass by pass. Everything but `loop` is pure: values in, values out."""
