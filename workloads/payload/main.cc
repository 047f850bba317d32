// The program inside Quire's own KVM guests: runs the workload that the aux area describes. Exit status: 0 when every
// page was right, 1 when one was not, 2 when the boot info or the aux area is none of this version.

#include <stddef.h>
#include <stdint.h>

#include "workloads/aux_area.h"
#include "workloads/guest_abi.h"
#include "workloads/payload/port.h"
#include "workloads/run.h"

namespace quire {
namespace {

enum ExitStatus : uint32_t { kAllRight = 0, kMismatch = 1, kBadBootInfo = 2 };

class GuestMemory {
 public:
  explicit GuestMemory(quire_boot_info& boot) : boot_(boot) {}

  template <class Use>
  bool WithPage(uint64_t page, bool write, Use use) {
    uint64_t* words = reinterpret_cast<uint64_t*>(boot_.memory + page * kPageBytes);
    // A write begins by reading; asking for write access at once saves the second fault.
    if (write) asm volatile("orq $0, %0" : "+m"(*words));
    use(words);
    return true;
  }
  void AdviseHuge(uint64_t page, uint64_t count) { quire::AdviseHuge(boot_, page * kPageBytes, count * kPageBytes); }
  void Wire(uint64_t page, uint64_t count) {
    if (quire::Wire(boot_, page * kPageBytes, count * kPageBytes)) return;
    Print("quire workload: ");
    PrintNumber(count);
    Print(" pages may not be wired; it goes on without that\n");
  }
  bool PassFreezePoint() {
    quire::PassFreezePoint();
    return true;
  }
  void Rest() { quire::Rest(); }

 private:
  static constexpr uint64_t kPageBytes = kWordsPerPage * sizeof(uint64_t);

  quire_boot_info& boot_;
};

[[noreturn]] void Refuse(const char* what) {
  Print("quire workload: ");
  Print(what);
  Print(": this payload and the program that started it are of different versions\n");
  Exit(kBadBootInfo);
}

void ReportMismatch(uint64_t vcpu, const quire_progress& progress) {
  Print("quire workload: vCPU ");
  PrintNumber(vcpu);
  Print(" read ");
  PrintNumber(progress.mismatched_pages);
  Print(" wrong pages; first word ");
  PrintNumber(progress.first_bad_word);
  Print(" of page ");
  PrintNumber(progress.first_bad_page);
  Print(": ");
  PrintHex(progress.first_bad_value);
  Print(" instead of ");
  PrintHex(progress.first_bad_wanted);
  Print("\n");
}

}  // namespace
}  // namespace quire

// The compiler may call these even in a freestanding program.
extern "C" void* memcpy(void* to, const void* from, size_t size) {
  void* out = to;
  asm volatile("rep movsb" : "+D"(out), "+S"(from), "+c"(size) : : "memory");
  return to;
}

extern "C" void* memset(void* to, int value, size_t size) {
  void* out = to;
  asm volatile("rep stosb" : "+D"(out), "+c"(size) : "a"(value) : "memory");
  return to;
}

extern "C" [[noreturn]] void _start(quire_boot_info* boot, uint64_t vcpu) {
  using namespace quire;
  if (boot->magic != QUIRE_ABI_MAGIC || boot->version != QUIRE_ABI_VERSION) Refuse("bad boot info");
  const AuxArea* aux = reinterpret_cast<const AuxArea*>(boot->aux);
  if (boot->aux_bytes < sizeof(AuxArea) || aux->magic != kAuxMagic) Refuse("bad aux area");
  GuestMemory memory(*boot);
  RunWorkload(*aux, *boot, static_cast<uint32_t>(vcpu), memory);
  const quire_progress& progress = boot->progress[vcpu];
  if (progress.mismatched_pages == 0) Exit(kAllRight);
  ReportMismatch(vcpu, progress);
  Exit(kMismatch);
}
