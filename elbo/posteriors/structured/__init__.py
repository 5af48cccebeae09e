"""What structures of many latent variables share: derivative rules, a posterior's methods, sums in log space."""
