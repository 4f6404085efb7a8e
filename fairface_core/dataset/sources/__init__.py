"""What a data folder may hold: label CSVs with images beside them, zip archives, Parquet files; and which of it is meant."""
