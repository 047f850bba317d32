#include <stdint.h>

#include "workloads/guest_abi.h"

static __attribute__((noreturn)) void Exit(uint32_t status) {
  for (;;) __asm__ volatile("outl %0, %1" : : "a"(status), "Nd"((uint16_t)QUIRE_EXIT_PORT));
}

static volatile uint64_t* Counter(struct quire_boot_info* boot, uint64_t page) {
  return (volatile uint64_t*)(boot->memory + page * 4096 + 8 * (page % 512));
}

void _start(struct quire_boot_info* boot, uint64_t vcpu) {
  volatile struct quire_progress* progress = &boot->progress[vcpu];
  const uint64_t pages = boot->memory_bytes / 4096;
  uint64_t done = 0;
  progress->phase = 1;
  while (!__atomic_load_n(&boot->stop, __ATOMIC_RELAXED)) {
    for (uint64_t page = vcpu; page < pages; page += boot->vcpus) ++*Counter(boot, page);
    progress->operations = ++done;
  }
  for (uint64_t page = vcpu; page < pages; page += boot->vcpus) {
    ++progress->verified_pages;
    if (*Counter(boot, page) != done) ++progress->mismatched_pages;
  }
  progress->phase = 2;
  Exit(progress->mismatched_pages != 0);
}
