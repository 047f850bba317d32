/* Writes to a port that Quire does not serve. */
void _start(void) {
  for (;;) __asm__ volatile("outb %0, %1" : : "a"((char)1), "Nd"((unsigned short)0x1234));
}
