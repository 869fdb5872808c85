"""Where data comes from; every source gives `days.Day`."""
