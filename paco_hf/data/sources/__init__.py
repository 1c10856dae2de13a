"""Where images come from: folders, tables, and datasets on the Hub."""
