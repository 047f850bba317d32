/* Gives advice that it may give, and then, as boot_info->seed says, one of the kBadAdviceCases things that it may not.
 * Whoever lets it go on after that sees it end with status 99. */
#include "workloads/guest_abi.h"

static void Advise(struct quire_boot_info* boot, uint64_t begin, uint64_t bytes, uint32_t advice) {
  boot->huge_begin = begin;
  boot->huge_bytes = bytes;
  __asm__ volatile("outl %0, %1" : : "a"(advice), "Nd"((uint16_t)QUIRE_ADVISE_PORT) : "memory");
}

void _start(struct quire_boot_info* boot, uint64_t vcpu) {
  const uint64_t memory = boot->memory_bytes;
  (void)vcpu;
  Advise(boot, 1, memory - 1, QUIRE_ADVISE_HUGE);
  switch (boot->seed) {
    case 0: /* a byte too many */
      Advise(boot, 1, memory, QUIRE_ADVISE_HUGE);
      break;
    case 1: /* behind the end */
      Advise(boot, memory + 4096, 4096, QUIRE_ADVISE_NO_HUGE);
      break;
    case 2: /* begin and size overflow to a place within */
      Advise(boot, 0 - 4096ull, 8192, QUIRE_ADVISE_HUGE);
      break;
    case 3:
      Advise(boot, 0, ~0ull, QUIRE_ADVISE_HUGE);
      break;
    case 4: /* an address where an offset is meant */
      Advise(boot, boot->memory, memory, QUIRE_ADVISE_HUGE);
      break;
    default: /* no such advice */
      Advise(boot, 0, memory, 3);
  }
  for (;;) __asm__ volatile("outl %0, %1" : : "a"(99), "Nd"((uint16_t)QUIRE_EXIT_PORT));
}
