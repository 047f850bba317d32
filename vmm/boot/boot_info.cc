#include "vmm/boot/boot_info.h"

#include <asm/bootparam.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "base/check.h"

namespace quire {
namespace {

constexpr uint16_t kProtocolWithRsdp = 0x020e;
constexpr uint8_t kUnknownLoader = 0xff;
constexpr uint16_t kNormalVideoMode = 0xffff;

// PVH.
struct StartInfo {
  uint32_t magic;
  uint32_t version;
  uint32_t flags;
  uint32_t modules;
  uint64_t module_list;
  uint64_t command_line;
  uint64_t rsdp;
  uint64_t memory_map;
  uint32_t memory_map_entries;
  uint32_t reserved;
};
static_assert(sizeof(StartInfo) == 56 && offsetof(StartInfo, rsdp) == 32);
constexpr uint32_t kStartInfoMagic = 0x336ec578;  // "xEn3" with the high bit of the "E" set

struct StartInfoModule {
  uint64_t address;
  uint64_t size;
  uint64_t command_line;
  uint64_t reserved;
};
static_assert(sizeof(StartInfoModule) == 32);

struct StartInfoMemory {
  uint64_t address;
  uint64_t size;
  uint32_t type;
  uint32_t reserved;
};
static_assert(sizeof(StartInfoMemory) == 24);

// Multiboot.
struct [[gnu::packed]] MultibootInfo {
  uint32_t flags;  // which of the following are there
  uint32_t memory_lower, memory_upper;
  uint32_t boot_device;
  uint32_t command_line;
  uint32_t modules, module_list;
  uint32_t symbols[4];
  uint32_t memory_map_size, memory_map;
  uint32_t drives_size, drives;
  uint32_t config_table;
  uint32_t loader_name;
  uint32_t apm_table;
};
static_assert(sizeof(MultibootInfo) == 72);
constexpr uint32_t kHasMemory = 1 << 0, kHasCommandLine = 1 << 2, kHasModules = 1 << 3, kHasMemoryMap = 1 << 6,
                   kHasLoaderName = 1 << 9;

struct MultibootModule {
  uint32_t begin, end;
  uint32_t text;
  uint32_t reserved;
};

struct [[gnu::packed]] MultibootMemory {
  uint32_t entry_size;  // without itself
  uint64_t address;
  uint64_t size;
  uint32_t type;
};
static_assert(sizeof(MultibootMemory) == 24);

constexpr char kLoaderName[] = "Quire";

// A structure and what it points to, one after another from kBootInfo on.
class Writer {
 public:
  // Where the next record will be.
  Gpa position() const { return kBootInfo + ByteCount::Bytes(bytes_.size()); }

  template <class Record>
  Gpa Append(const Record& record) {
    const Gpa place = position();
    const auto* begin = reinterpret_cast<const std::byte*>(&record);
    bytes_.insert(bytes_.end(), begin, begin + sizeof(record));
    return place;
  }

  template <class Record>
  void SetFirst(const Record& record) {
    std::memcpy(bytes_.data(), &record, sizeof(record));
  }

  std::vector<std::byte> Take() && { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

uint32_t InKib(const MemoryMapEntry& entry) {
  return static_cast<uint32_t>(std::min<uint64_t>(entry.size.in_bytes() >> 10, UINT32_MAX));
}

// KiB of memory from 0 on, and from 1 MiB on up to the first hole.
void SetMemory(absl::Span<const MemoryMapEntry> map, MultibootInfo& info) {
  for (const MemoryMapEntry& entry : map) {
    if (entry.type != MemoryMapEntry::Type::kMemory) continue;
    if (entry.begin == Gpa(0)) info.memory_lower = InKib(entry);
    if (entry.begin == kKernelBegin) info.memory_upper = InKib(entry);
  }
  info.flags |= kHasMemory;
}

}  // namespace

std::vector<std::byte> BuildBootParams(const KernelImage& kernel, const BootFacts& facts) {
  boot_params params = {};
  QUIRE_CHECK(kernel.setup_header.size() <= sizeof(params.hdr));
  std::memcpy(&params.hdr, kernel.setup_header.data(), kernel.setup_header.size());
  params.hdr.type_of_loader = kUnknownLoader;
  params.hdr.vid_mode = kNormalVideoMode;
  params.hdr.cmd_line_ptr = facts.command_line.value();
  params.hdr.setup_data = 0;
  params.hdr.ramdisk_image = facts.initrd_size == ByteCount() ? 0 : facts.initrd.value();
  params.hdr.ramdisk_size = facts.initrd_size.in_bytes();
  if (kernel.protocol >= kProtocolWithRsdp) params.acpi_rsdp_addr = facts.rsdp.value();
  QUIRE_CHECK(facts.memory_map.size() <= E820_MAX_ENTRIES_ZEROPAGE);
  for (const MemoryMapEntry& entry : facts.memory_map) {
    params.e820_table[params.e820_entries++] = {
        .addr = entry.begin.value(), .size = entry.size.in_bytes(), .type = static_cast<uint32_t>(entry.type)};
  }
  Writer writer;
  writer.Append(params);
  return std::move(writer).Take();
}

std::vector<std::byte> BuildStartInfo(const BootFacts& facts) {
  StartInfo info = {};
  info.magic = kStartInfoMagic;
  info.version = 1;
  info.command_line = facts.command_line.value();
  info.rsdp = facts.rsdp.value();
  Writer writer;
  writer.Append(info);
  if (facts.initrd_size > ByteCount()) {
    info.modules = 1;
    info.module_list = writer.position().value();
    writer.Append(StartInfoModule{
        .address = facts.initrd.value(), .size = facts.initrd_size.in_bytes(), .command_line = 0, .reserved = 0});
  }
  info.memory_map = writer.position().value();
  info.memory_map_entries = facts.memory_map.size();
  for (const MemoryMapEntry& entry : facts.memory_map) {
    writer.Append(StartInfoMemory{.address = entry.begin.value(),
                                  .size = entry.size.in_bytes(),
                                  .type = static_cast<uint32_t>(entry.type),
                                  .reserved = 0});
  }
  writer.SetFirst(info);
  return std::move(writer).Take();
}

std::vector<std::byte> BuildMultibootInfo(const BootFacts& facts) {
  MultibootInfo info = {};
  info.flags = kHasCommandLine | kHasMemoryMap | kHasLoaderName;
  info.command_line = facts.command_line.value();
  SetMemory(facts.memory_map, info);
  Writer writer;
  writer.Append(info);
  info.memory_map = writer.position().value();
  for (const MemoryMapEntry& entry : facts.memory_map) {
    writer.Append(MultibootMemory{.entry_size = sizeof(MultibootMemory) - sizeof(uint32_t),
                                  .address = entry.begin.value(),
                                  .size = entry.size.in_bytes(),
                                  .type = static_cast<uint32_t>(entry.type)});
  }
  info.memory_map_size = facts.memory_map.size() * sizeof(MultibootMemory);
  info.loader_name = writer.Append(kLoaderName).value();
  if (facts.initrd_size > ByteCount()) {
    info.flags |= kHasModules;
    info.modules = 1;
    const uint32_t no_text = info.loader_name + sizeof(kLoaderName) - 1;  // its final zero: an empty string
    const Gpa end = facts.initrd + facts.initrd_size;
    info.module_list = writer
                           .Append(MultibootModule{.begin = static_cast<uint32_t>(facts.initrd.value()),
                                                   .end = static_cast<uint32_t>(end.value()),
                                                   .text = no_text,
                                                   .reserved = 0})
                           .value();
  }
  writer.SetFirst(info);
  return std::move(writer).Take();
}

}  // namespace quire
