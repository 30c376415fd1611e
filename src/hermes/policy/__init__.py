"""The decisions: pure functions and state machines. Time is an argument; nothing here waits, reads or writes."""
