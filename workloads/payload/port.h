// How a payload talks to Quire: the ports of guest_abi.h. Freestanding.
#ifndef QUIRE_WORKLOADS_PAYLOAD_PORT_H_
#define QUIRE_WORKLOADS_PAYLOAD_PORT_H_

#include <stdint.h>

#include "workloads/guest_abi.h"

namespace quire {

inline void PrintChar(char c) {
  asm volatile("outb %0, %1" : : "a"(c), "Nd"(static_cast<uint16_t>(QUIRE_SERIAL_PORT)));
}

inline void Print(const char* text) {
  while (*text != '\0') PrintChar(*text++);
}

inline void PrintNumber(uint64_t number) {
  if (number >= 10) PrintNumber(number / 10);
  PrintChar(static_cast<char>('0' + number % 10));
}

inline void PrintHex(uint64_t number) {
  Print("0x");
  for (int shift = 60; shift >= 0; shift -= 4) PrintChar("0123456789abcdef"[number >> shift & 15]);
}

// Asks for whole blocks for a part of the guest's memory.
inline void AdviseHuge(quire_boot_info& boot, uint64_t begin, uint64_t bytes) {
  boot.huge_begin = begin;
  boot.huge_bytes = bytes;
  asm volatile("outl %0, %1" : : "a"(QUIRE_ADVISE_HUGE), "Nd"(static_cast<uint16_t>(QUIRE_ADVISE_PORT)) : "memory");
}

// Asks for a part of the guest's memory to stay; false: it may not.
inline bool Wire(quire_boot_info& boot, uint64_t begin, uint64_t bytes) {
  boot.wire_begin = begin;
  boot.wire_bytes = bytes;
  asm volatile("outl %0, %1" : : "a"(QUIRE_WIRE), "Nd"(static_cast<uint16_t>(QUIRE_WIRE_PORT)) : "memory");
  return boot.wire_answer == QUIRE_WIRE_DONE;
}

// Where the guest may be frozen, and its clones go on.
inline void PassFreezePoint() {
  asm volatile("outl %0, %1" : : "a"(0), "Nd"(static_cast<uint16_t>(QUIRE_FREEZE_PORT)) : "memory");
}

// This vCPU rests for as long as boot_info->idle_percent asks for.
inline void Rest() { asm volatile("outl %0, %1" : : "a"(0), "Nd"(static_cast<uint16_t>(QUIRE_REST_PORT)) : "memory"); }

// Ends this vCPU.
[[noreturn]] inline void Exit(uint32_t status) {
  for (;;) asm volatile("outl %0, %1" : : "a"(status), "Nd"(static_cast<uint16_t>(QUIRE_EXIT_PORT)));
}

}  // namespace quire

#endif  // QUIRE_WORKLOADS_PAYLOAD_PORT_H_
