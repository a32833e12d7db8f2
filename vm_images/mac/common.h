/* What both programs of the MAC VM's boot have in common: a mistake ends the machine, in words on its console. */

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

static void to_console(void)
{
    int console = open("/dev/console", O_RDWR | O_NOCTTY);
    if (console < 0)
        return;
    for (int stream = 0; stream <= 2; stream++)
        dup2(console, stream);
    if (console > 2)
        close(console);
}

static void say(const char *format, ...)
{
    va_list words;
    va_start(words, format);
    fputs("mac-vm: ", stderr);
    vfprintf(stderr, format, words);
    fputs("\r\n", stderr);
    va_end(words);
}

static void power_off(void)
{
    sync();
    reboot(RB_POWER_OFF);
    for (;;) /* where that fails nothing goes on either */
        pause();
}

/* Tell what could not be done and, where errno says something, why. */
static void fail(const char *what, const char *which)
{
    int why = errno;
    say("%s%s%s%s%s: the machine is switched off", what, *which ? " " : "", which, why ? ": " : "",
        why ? strerror(why) : "");
    power_off();
}

static void must_mount(const char *source, const char *target, const char *kind, unsigned long flags, const char *options)
{
    if (mount(source, target, kind, flags, options) != 0)
        fail("cannot mount", target);
}

/* The start of a small text file of the kernel. */
static void must_read(const char *path, char *text, size_t size)
{
    int file = open(path, O_RDONLY);
    ssize_t length = file < 0 ? -1 : read(file, text, size - 1);
    if (length < 0)
        fail("cannot read", path);
    text[length] = '\0';
    close(file);
}
