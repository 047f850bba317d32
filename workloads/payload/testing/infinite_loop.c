/* Never looks at boot_info->stop. */
void _start(void) {
  for (;;) __asm__ volatile("");
}
