"""One thin adapter a host. Nothing else imports a host."""
