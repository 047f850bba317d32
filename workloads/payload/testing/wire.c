/* With seed 0: wires and unwires parts of its memory, which is more than may be wired, and ends with the number of
 * answers that are not what they should be. With another seed: one of the requests that a guest may not make. Whoever
 * lets it go on after that sees it end with status 99. */
#include "workloads/guest_abi.h"

static uint64_t Ask(struct quire_boot_info* boot, uint64_t begin, uint64_t bytes, uint32_t what) {
  boot->wire_begin = begin;
  boot->wire_bytes = bytes;
  __asm__ volatile("outl %0, %1" : : "a"(what), "Nd"((uint16_t)QUIRE_WIRE_PORT) : "memory");
  return boot->wire_answer;
}

static uint32_t WrongAnswers(struct quire_boot_info* boot) {
  const uint64_t memory = boot->memory_bytes;
  volatile uint64_t* const word = (volatile uint64_t*)(boot->memory + 4096);
  uint32_t wrong = 0;
  wrong += Ask(boot, 4097, 8192, QUIRE_WIRE) != QUIRE_WIRE_DONE; /* pages 1 to 3 */
  *word = 5;
  wrong += Ask(boot, 0, memory, QUIRE_WIRE) != QUIRE_WIRE_REFUSED;        /* too much */
  wrong += Ask(boot, 4096, 8192, QUIRE_UNWIRE) != QUIRE_WIRE_REFUSED;     /* not what was wired */
  wrong += Ask(boot, 4096, 3 * 4096, QUIRE_UNWIRE) != QUIRE_WIRE_DONE;    /* the pages, however they are named */
  wrong += Ask(boot, 4096, 3 * 4096, QUIRE_UNWIRE) != QUIRE_WIRE_REFUSED; /* no longer */
  wrong += Ask(boot, memory, 0, QUIRE_WIRE) != QUIRE_WIRE_DONE;           /* nothing */
  wrong += *word != 5;
  return wrong;
}

void _start(struct quire_boot_info* boot, uint64_t vcpu) {
  const uint64_t memory = boot->memory_bytes;
  uint32_t status = 99;
  (void)vcpu;
  switch (boot->seed) {
    case 0:
      status = WrongAnswers(boot);
      break;
    case 1: /* a byte too many */
      Ask(boot, 1, memory, QUIRE_WIRE);
      break;
    case 2: /* begin and size overflow to a place within */
      Ask(boot, 0 - 4096ull, 8192, QUIRE_WIRE);
      break;
    default: /* no such request */
      Ask(boot, 0, 4096, 3);
  }
  for (;;) __asm__ volatile("outl %0, %1" : : "a"(status), "Nd"((uint16_t)QUIRE_EXIT_PORT));
}
