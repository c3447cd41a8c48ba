"""The publish room: samples and metrics in, what leaves the pipeline out: archive, submission form, report."""
