"""The lab: real systemd hosts in containers, for demo, Molecule, tests and bench alike."""
