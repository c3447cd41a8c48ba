"""Plans how to spread a model over GPUs: its shape, a roofline of its speed, the report."""
