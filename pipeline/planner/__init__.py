"""How to spread a model over GPUs: its shape, a roofline of the speed, the report."""
