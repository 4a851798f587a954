"""The parts of gpu_day.sh, a file each: `run(day)` measures and adds rows to the table."""
