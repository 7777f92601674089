"""What several tests share: fakes and makers, no assertions."""
