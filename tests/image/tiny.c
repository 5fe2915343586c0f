/* SPDX-License-Identifier: Apache-2.0 */
/* The smallest guest: says that it runs, waits for one character, switches itself off. Linked to nothing, so
 * that it needs no library in its initramfs. */

static long call(long number, long a, long b, long c, long d) {
    register long r10 __asm__("r10") = d;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
                     : "rcx", "r11", "memory");
    return result;
}

enum { SYS_READ = 0, SYS_WRITE = 1, SYS_REBOOT = 169 };
enum { MAGIC1 = (int)0xfee1dead, MAGIC2 = 672274793, POWER_OFF = 0x4321fedc, RESTART = 0x01234567 };

__attribute__((noreturn, force_align_arg_pointer)) void _start(void) {
    static const char hello[] = "tiny guest runs\n";
    char key = 0;
    call(SYS_WRITE, 1, (long)hello, sizeof hello - 1, 0);
    call(SYS_READ, 0, (long)&key, 1, 0);
    call(SYS_REBOOT, MAGIC1, MAGIC2, key == 'r' ? RESTART : POWER_OFF, 0);
    for (;;)
        ;
}
