"""The commands of `ddpm`, one file each."""
