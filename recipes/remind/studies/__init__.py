"""What ReMind claims, put to the test, a contact sheet, and STEVO-Bench."""
