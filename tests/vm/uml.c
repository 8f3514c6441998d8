/* Four repairs of the User Mode Linux kernel of Debian 12, for LD_PRELOAD. Needs no headers and no start files:
 * cc -shared -fPIC -nostdlib -o uml.so uml.c
 *
 * ptrace, options: UML runs a machine's processes as traced children. When UML is killed, and a power cut kills it,
 * Linux lets its children go on: as processes of the host, with root's rights there. PTRACE_O_EXITKILL ends them first.
 *
 * ptrace, registers: UML restores them with PTRACE_SETREGSET, NT_X86_XSTATE from a buffer without room for those of
 * AMX, and Linux takes only all registers of the processor (EFAULT otherwise; arch/x86/kernel/fpu/regset.c). What is
 * missing is passed as zeros: its "in use" bits are clear, for a process has to ask for AMX, and none in there does.
 *
 * execvp: a machine that reboots in an emergency, as a watchdog makes it, starts over by exec with its taps and memory
 * still open, and with SIGIO on. The taps are busy then, and a signal that comes before it is set up ends it. So: all
 * closed but the standard descriptors (the serial line is the first), and no signal asked for or pending.
 *
 * epoll_wait: just before that exec it answers a SIGIO that is pending, with its epoll closed already, and dies of the
 * message that it would print. Nothing is ready then.
 */
#define SYS_EXECVE 59
#define SYS_FCNTL 72
#define SYS_PTRACE 101
#define SYS_EPOLL_WAIT 232
#define SYS_CLOSE_RANGE 436
#define EBADF 9
#define F_SETFL 4
#define O_RDWR 2
#define SIG_DFL ((void (*)(int))0)
#define SIG_IGN ((void (*)(int))1)
#define PTRACE_PEEKUSER 3
#define PTRACE_OLDSETOPTIONS 21
#define PTRACE_SETOPTIONS 0x4200
#define PTRACE_SETREGSET 0x4205
#define NT_X86_XSTATE 0x202
#define PTRACE_O_EXITKILL 0x100000

struct part {
    char *base;
    unsigned long size;
};

extern long syscall(long, ...);
extern int *__errno_location(void);
extern void (*signal(int, void (*)(int)))(int);
extern char **environ;
static char whole[65536]; /* Linux reads as much of it as the processor has; UML's kernel is one thread */

long ptrace(long request, long pid, void *address, void *data)
{
    if (request >= 1 && request <= PTRACE_PEEKUSER) { /* the system call gives what was read through the pointer */
        long word = 0;
        long failed = syscall(SYS_PTRACE, request, pid, address, &word);
        return failed ? failed : word;
    }
    if (request == PTRACE_SETREGSET && (long)address == NT_X86_XSTATE) {
        struct part *given = data;
        struct part all = {whole, sizeof whole};
        for (unsigned long i = 0; i < given->size; i++)
            whole[i] = given->base[i];
        return syscall(SYS_PTRACE, request, pid, address, &all);
    }
    if (request == PTRACE_SETOPTIONS || request == PTRACE_OLDSETOPTIONS)
        data = (void *)((long)data | PTRACE_O_EXITKILL);
    return syscall(SYS_PTRACE, request, pid, address, data);
}

int execvp(const char *file, char *const arguments[])
{
    (void)file; /* itself: nothing else is started this way */
    syscall(SYS_CLOSE_RANGE, 3L, 0x7fffffffL, 0L);
    syscall(SYS_FCNTL, 0L, (long)F_SETFL, (long)O_RDWR);
    for (int number = 1; number < 32; number++) {
        signal(number, SIG_IGN); /* which discards those that are pending */
        signal(number, SIG_DFL);
    }
    return syscall(SYS_EXECVE, "/proc/self/exe", arguments, environ);
}

int epoll_wait(int epoll, void *events, int room, int timeout)
{
    long count = syscall(SYS_EPOLL_WAIT, (long)epoll, events, (long)room, (long)timeout);
    return count < 0 && *__errno_location() == EBADF ? 0 : count;
}
