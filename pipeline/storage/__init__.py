"""Files on a disk or in object storage: directories, artifacts (sets of Parquet files that appear whole), queries."""
