#include "workloads/guest_abi.h"

static void Print(const char* text) {
  for (; *text; ++text) __asm__ volatile("outb %0, %1" : : "a"(*text), "Nd"((uint16_t)QUIRE_SERIAL_PORT));
}

/* Every vCPU starts here. There is nothing to return to. */
void _start(struct quire_boot_info* boot, uint64_t vcpu) {
  volatile struct quire_progress* progress = &boot->progress[vcpu];
  if (vcpu == 0) Print("hello from a guest\n");
  for (uint64_t page = vcpu; page < boot->memory_bytes / 4096; page += boot->vcpus) {
    volatile uint64_t* word = (volatile uint64_t*)(boot->memory + page * 4096);
    *word = page;
    ++progress->operations;
    ++progress->verified_pages;
    if (*word != page) ++progress->mismatched_pages;
  }
  progress->phase = 2;
  for (;;) __asm__ volatile("outl %0, %1" : : "a"(progress->mismatched_pages != 0), "Nd"((uint16_t)QUIRE_EXIT_PORT));
}
