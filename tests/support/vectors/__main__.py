"""Write the vectors."""

from support.vectors import FOLDER, write

print(f"{write()} cases in {FOLDER}")
