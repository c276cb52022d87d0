"""The data sets inside the package, one CSV file each with the columns text, label and split."""
