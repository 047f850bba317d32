// <memory>, <currentMemory>, <memtune> and <memoryBacking>, and the memory of <cpu>'s NUMA cells.
#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "guest/guest_limits.h"
#include "vmm/boot/pc_layout.h"
#include "vmm/libvirt/domain/reader.h"
#include "vmm/text.h"

namespace quire {
namespace {

using Fate = DomainReader::Fate;
using Rule = DomainReader::Rule;

constexpr DomainReader::Otherwise kUnknown = {Fate::kIgnored, "Quire does not know it"};

// VIR_DOMAIN_MEMORY_PARAM_UNLIMITED, in KiB, and what is above it.
constexpr ByteCount kUnlimited = ByteCount::Bytes(uint64_t{9007199254740991} << 10);

ByteCount WholePages(ByteCount size) { return PageCount::Ceil(size).bytes(); }

void SetMemory(DomainReader& reader, pugi::xml_node node, ByteCount memory) {
  reader.guest.memory = WholePages(memory);
  if (!reader.ok()) return;
  if (memory == ByteCount()) return reader.Fail(node, absl::StrCat("<", node.name(), "> leaves the guest no memory"));
  if (memory >= kPcMinMemory && memory <= kPcMaxMemory) return;
  reader.Refuse(node, absl::StrCat(FormatSize(memory), " is not what a PC of Quire's can have: from ",
                                   FormatSize(kPcMinMemory), " to ", FormatSize(kPcMaxMemory)));
}

// What needs others to be read; that there is one of it has been seen to.
void ReadBelow(DomainReader&, pugi::xml_node) {}

// A limit in whole pages; nothing: there is none.
std::optional<ByteCount> ReadLimit(DomainReader& reader, pugi::xml_node node) {
  if (!node) return std::nullopt;
  const ByteCount limit = reader.Size(node);
  if (!reader.ok() || limit >= kUnlimited) return std::nullopt;
  return PageCount(limit.in_bytes() / kPageSize).bytes();
}

void ReadHugePages(DomainReader& reader, pugi::xml_node node) {
  reader.guest.huge_pages = true;
  constexpr Rule kRules[] = {{.name = "page", .read = [](DomainReader& r, pugi::xml_node page) {
                                const ByteCount size = r.Size(page, "size", "unit");
                                if (r.ok() && size != ByteCount::Bytes(kBlockSize)) {
                                  r.Ignore(page, "size", "a huge page of Quire's has 2 MiB");
                                }
                                r.Ignore(page, "nodeset", "the guest has one NUMA node");
                              }}};
  reader.ReadChildren(node, kRules, kUnknown, /*may_repeat=*/true);
}

void ReadAllocation(DomainReader& reader, pugi::xml_node node) {
  if (reader.Word(node, "mode") != "ondemand") {
    reader.Ignore(node, "mode", "memory is taken from the pool when the guest first touches it");
  }
  reader.IgnoreOtherAttributes(node, {"mode"}, "memory is taken from the pool when the guest first touches it");
}

}  // namespace

void ReadMemory(DomainReader& reader, pugi::xml_node memory) {
  SetMemory(reader, memory, reader.Size(memory));
  reader.Ignore(memory, "dumpCore", "core dumps are the host's to configure");
  reader.IgnoreOtherAttributes(memory, {"unit", "dumpCore"}, "Quire does not know it");
}

void ReadCurrentMemory(DomainReader& reader, pugi::xml_node memory) { reader.current_memory = reader.Size(memory); }

// The memory of cells, if there are any, counts and not that of <memory>: libvirt's virDomainDefPostParseMemory.
void ReadCpu(DomainReader& reader, pugi::xml_node cpu) {
  reader.Ignore(cpu, "the guest's CPU is the host's, as far as KVM supports it, and its vCPUs are one core each");
  const pugi::xml_node numa = cpu.child("numa");
  if (!numa) return;
  uint64_t bytes = 0;
  for (const pugi::xml_node cell : numa.children("cell")) {
    if (!cell.attribute("memory")) return reader.Fail(cell, "<cell> has no memory: write memory='1' unit='GiB'");
    bytes += reader.Size(cell, "memory", "unit").in_bytes();
    if (!reader.ok()) return;
    if (bytes > uint64_t{INT64_MAX}) return reader.Fail(cell, "its cells have more memory than any machine");
  }
  reader.Ignore(numa, "the guest has one NUMA node, with the memory of all cells");
  if (numa.child("cell")) SetMemory(reader, numa, ByteCount::Bytes(bytes));
}

void ReadMemtune(DomainReader& reader, pugi::xml_node memtune) {
  constexpr Rule kRules[] = {
      {.name = "hard_limit", .read = ReadBelow},
      {.name = "swap_hard_limit", .read = ReadBelow},
      {.name = "soft_limit",
       .fate = Fate::kIgnored,
       .why = "when memory is short, what is cold goes first, whosever it is"},
      {.name = "min_guarantee",
       .fate = Fate::kIgnored,
       .why = "nothing is set aside for one guest: --overcommit=strict promises all of all"},
  };
  reader.ReadChildren(memtune, kRules, kUnknown);
  const pugi::xml_node hard = memtune.child("hard_limit"), both = memtune.child("swap_hard_limit");
  reader.guest.pool_limit = ReadLimit(reader, hard);
  const std::optional<ByteCount> sum = ReadLimit(reader, both);
  if (!reader.ok()) return;
  if (reader.guest.pool_limit < GuestLimits::kLeast.bytes() && reader.guest.pool_limit.has_value()) {
    return reader.Refuse(hard,
                         absl::StrCat("a guest cannot run in less than ", FormatSize(GuestLimits::kLeast.bytes())));
  }
  if (!sum.has_value()) return;
  if (!reader.guest.pool_limit.has_value()) {
    return reader.Ignore(both, "without a hard_limit it does not say how much may be swapped");
  }
  if (*sum < *reader.guest.pool_limit)
    return reader.Fail(both, "swap_hard_limit is less than hard_limit, which it includes");
  // Zero would be no limit: one page is the least that can be said.
  reader.guest.swap_limit = std::max(*sum - *reader.guest.pool_limit, kOnePage.bytes());
}

void ReadMemoryBacking(DomainReader& reader, pugi::xml_node backing) {
  constexpr Rule kRules[] = {
      {.name = "hugepages", .read = ReadHugePages},
      {.name = "nosharepages", .read = [](DomainReader& r, pugi::xml_node) { r.guest.shares_pages = false; }},
      {.name = "locked", .read = [](DomainReader& r, pugi::xml_node) { r.guest.locked = true; }},
      {.name = "source", .fate = Fate::kIgnored, .why = "the guest's memory lies in Quire's pool, a file in memory"},
      {.name = "access", .fate = Fate::kIgnored, .why = "no other process maps the guest's memory"},
      {.name = "allocation", .read = ReadAllocation},
      {.name = "discard"},  // the pool goes with the run
  };
  reader.ReadChildren(backing, kRules, kUnknown);
}

}  // namespace quire
