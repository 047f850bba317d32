/* Reads the first byte after the guest's memory, where nothing is mapped. */
#include "workloads/guest_abi.h"

void _start(struct quire_boot_info* boot, uint64_t vcpu) {
  (void)vcpu;
  for (;;) (void)*(volatile char*)(boot->memory + boot->memory_bytes);
}
