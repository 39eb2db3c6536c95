"""What tests share: mailboxes on a real server, and a fresh database for each test."""
