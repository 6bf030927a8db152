"""iptables mode: restore text in a lean layout. README.md beside this file has the picture and the reasons."""
