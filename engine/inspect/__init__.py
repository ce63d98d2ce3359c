"""Looking at a run and at the machine behind it. Importing it draws nothing."""
