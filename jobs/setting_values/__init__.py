"""Values of settings and options that people write as text: lengths of time, prices of devices by the hour."""
