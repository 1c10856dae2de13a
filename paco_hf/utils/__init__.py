"""What every other package may use: files, images, console, hardware, memory, processes, optional packages."""
