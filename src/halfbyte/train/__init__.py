"""Training of draft heads (extra [train], torch). Nothing else imports this room."""
