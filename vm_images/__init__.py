"""Recipes for the lab's images: a Debian host with SELinux, a TPM stack and libvirt, and a tiny application VM.

Run ``python3 -m vm_images.build`` as root on a Debian machine. Needs the standard library and the packages of
``debian-packages.txt`` only.
"""
