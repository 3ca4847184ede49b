"""The words of this program, as frozen values that every other room shares."""
