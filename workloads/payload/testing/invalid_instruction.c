/* Dies of an exception: a program has no handlers for them. */
void _start(void) {
  for (;;) __asm__ volatile("ud2");
}
