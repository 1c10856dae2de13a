"""Where images come from: folders, tables, and data sets on the Hub."""
