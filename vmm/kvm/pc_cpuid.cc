#include "vmm/kvm/pc_cpuid.h"

#include <linux/kvm.h>

#include <bit>
#include <cstdint>
#include <cstring>

namespace quire {
namespace {

// Leaves.
constexpr uint32_t kVendor = 0;
constexpr uint32_t kFeatures = 1;
constexpr uint32_t kCaches = 4;
constexpr uint32_t kTopology = 0xb;
constexpr uint32_t kTopologyV2 = 0x1f;
constexpr uint32_t kKvmFeatures = 0x40000001;
constexpr uint32_t kPowerAndRas = 0x80000007;
constexpr uint32_t kSizes = 0x80000008;
constexpr uint32_t kAmdTopology = 0x8000001e;

// Bits and fields.
constexpr uint32_t kHypervisor = 1u << 31;      // features, ecx
constexpr uint32_t kTscDeadline = 1u << 24;     // features, ecx
constexpr uint32_t kMultithreading = 1u << 28;  // features, edx: the count of logical processors means something
constexpr uint32_t kKvmClock = 1u << 0 | 1u << 3 | 1u << 24;  // both generations of the clock, and that it is stable
constexpr uint32_t kKvmNoIoDelay = 1u << 1;
constexpr uint32_t kAmdMcaRecovery = 1u << 0 | 1u << 1;  // overflow recovery; SUCCOR

enum LevelType : uint32_t { kNoLevel = 0, kThread = 1, kCore = 2 };

// Bits of an APIC id that tell the processors of a package apart.
uint32_t ShiftOf(int vcpus) { return static_cast<uint32_t>(std::bit_width(static_cast<uint32_t>(vcpus - 1))); }

uint32_t WithBits(uint32_t word, int first, uint32_t mask, uint32_t value) {
  return (word & ~(mask << first)) | (value & mask) << first;
}

void SetTopologyLevel(uint32_t vcpu, uint32_t vcpus, kvm_cpuid_entry2& entry) {
  const LevelType type = entry.index == 0 ? kThread : entry.index == 1 ? kCore : kNoLevel;
  entry.eax = type == kCore ? ShiftOf(static_cast<int>(vcpus)) : 0;
  entry.ebx = type == kCore ? vcpus : type == kThread ? 1 : 0;
  entry.ecx = entry.index | type << 8;
  entry.edx = vcpu;
}

void Adjust(uint32_t vcpu, uint32_t vcpus, bool tsc_deadline, bool amd, kvm_cpuid_entry2& entry) {
  switch (entry.function) {
    case kFeatures:
      entry.ebx = WithBits(entry.ebx, 24, 0xff, vcpu);
      entry.ebx = WithBits(entry.ebx, 16, 0xff, vcpus);
      entry.ecx |= kHypervisor | (tsc_deadline ? kTscDeadline : 0);
      entry.edx = vcpus > 1 ? entry.edx | kMultithreading : entry.edx & ~kMultithreading;
      break;
    case kCaches:
      // The last level is everybody's; the others have one processor each.
      if ((entry.eax & 0x1f) == 0) break;
      entry.eax = WithBits(entry.eax, 14, 0xfff, (entry.eax >> 5 & 7) >= 3 ? vcpus - 1 : 0);
      entry.eax = WithBits(entry.eax, 26, 0x3f, vcpus - 1);
      break;
    case kTopology:
    case kTopologyV2:
      SetTopologyLevel(vcpu, vcpus, entry);
      break;
    case kKvmFeatures:
      entry.eax &= kKvmClock | kKvmNoIoDelay;
      break;
    case kPowerAndRas:
      if (amd) entry.ebx |= kAmdMcaRecovery;
      break;
    case kSizes:
      entry.ecx = WithBits(entry.ecx, 0, 0xff, vcpus - 1);
      entry.ecx = WithBits(entry.ecx, 12, 0xf, ShiftOf(static_cast<int>(vcpus)));
      break;
    case kAmdTopology:
      entry.eax = vcpu;
      entry.ebx = WithBits(entry.ebx, 0, 0xffff, vcpu);  // a core with one thread
      entry.ecx = 0;                                     // one node
      break;
    default:
      break;
  }
}

// The levels that a topology leaf needs: some hosts list one of them only.
void AddTopologyLevels(uint32_t leaf, CpuidTable& table) {
  if (table.Find(leaf) == nullptr) return;
  for (uint32_t index = 0; index < 3; ++index) {
    bool found = false;
    for (uint32_t i = 0; i < table.size; ++i) {
      found |= table.entries[i].function == leaf && table.entries[i].index == index;
    }
    if (found || table.size == CpuidTable::kCapacity) continue;
    kvm_cpuid_entry2& entry = table.entries[table.size++];
    entry = {};
    entry.function = leaf;
    entry.index = index;
    entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
  }
}

bool IsVendor(const kvm_cpuid_entry2& leaf, const char (&name)[13]) {
  const uint32_t words[] = {leaf.ebx, leaf.edx, leaf.ecx};
  return std::memcmp(words, name, sizeof words) == 0;
}

}  // namespace

bool IsAmd(const CpuidTable& cpuid) {
  const kvm_cpuid_entry2* const leaf = cpuid.Find(kVendor);
  return leaf != nullptr && (IsVendor(*leaf, "AuthenticAMD") || IsVendor(*leaf, "HygonGenuine"));
}

CpuidTable PcCpuid(const CpuidTable& supported, int vcpu, int vcpus, bool tsc_deadline) {
  CpuidTable table = supported;
  AddTopologyLevels(kTopology, table);
  AddTopologyLevels(kTopologyV2, table);
  for (uint32_t i = 0; i < table.size; ++i) {
    Adjust(static_cast<uint32_t>(vcpu), static_cast<uint32_t>(vcpus), tsc_deadline, IsAmd(supported), table.entries[i]);
  }
  return table;
}

}  // namespace quire
