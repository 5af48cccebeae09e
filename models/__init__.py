"""The zoo: models as pairs (log_joint, encoder), and the families they are made of."""
