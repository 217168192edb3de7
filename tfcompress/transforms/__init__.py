"""Weight transforms: what a kernel goes through before its layer uses it, and who applies them."""
