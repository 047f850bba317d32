#include <stdint.h>

#include "workloads/guest_abi.h"

/* Writes to each page of its memory, stops at a freeze point, and begins again. */
void _start(struct quire_boot_info* boot) {
  for (;;) {
    for (uint64_t offset = 0; offset < boot->memory_bytes; offset += 4096) {
      ++*(volatile uint64_t*)(boot->memory + offset);
    }
    __asm__ volatile("outl %0, %1" : : "a"(0), "Nd"((uint16_t)QUIRE_FREEZE_PORT) : "memory");
  }
}
