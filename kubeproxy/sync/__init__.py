"""When and how the kernel is brought in line with the World."""
