// Makes small kernels for tests, whole ones, to be broken by the test.
#ifndef QUIRE_VMM_BOOT_TEST_KERNELS_H_
#define QUIRE_VMM_BOOT_TEST_KERNELS_H_

#include <asm/bootparam.h>
#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>

#include "vmm/kvm/test_elf.h"

namespace quire {

template <class Record>
std::string RecordBytes(const Record& record) {
  return std::string(reinterpret_cast<const char*>(&record), sizeof(record));
}

// A bzImage of protocol 2.15 that is loaded to 16 MiB and takes 8 MiB there. Two sectors of setup.
struct TestBzImage {
  setup_header header = {};
  std::string kernel = std::string(4096, '\x90');
  // Where the setup header ends; 0: after all of its fields.
  uint64_t header_end = 0;

  TestBzImage() {
    header.setup_sects = 2;
    header.boot_flag = 0xaa55;
    header.header = 0x53726448;
    header.version = 0x020f;
    header.loadflags = LOADED_HIGH;
    header.xloadflags = XLF_KERNEL_64;
    header.initrd_addr_max = 0x7fffffff;
    header.kernel_alignment = 0x200000;
    header.relocatable_kernel = 1;
    header.cmdline_size = 2047;
    header.pref_address = 16 << 20;
    header.init_size = 8 << 20;
    header.syssize = kernel.size() / 16;
  }

  std::string bytes() const {
    constexpr uint64_t kHeaderAt = 0x1f1, kJumpFrom = 0x202;
    setup_header copy = header;
    const uint64_t end = header_end == 0 ? kHeaderAt + sizeof(header) : header_end;
    copy.jump = 0xeb | (end - kJumpFrom) << 8;
    std::string file(3 * 512, '\xcc');
    file.replace(kHeaderAt, end - kHeaderAt, reinterpret_cast<const char*>(&copy), end - kHeaderAt);
    return file + kernel;
  }
};

// An ELF note as linkers lay it out.
inline std::string TestNote(const std::string& name, uint32_t type, const std::string& content) {
  const auto padded = [](std::string text) {
    text.resize((text.size() + 3) / 4 * 4);
    return text;
  };
  const Elf64_Nhdr note = {.n_namesz = static_cast<uint32_t>(name.size() + 1),
                           .n_descsz = static_cast<uint32_t>(content.size()),
                           .n_type = type};
  return RecordBytes(note) + padded(name + '\0') + padded(content);
}

inline std::string TestPvhNote(uint64_t entry) { return TestNote("Xen", 18, RecordBytes(entry)); }

// Linux in small: runs high, lies at 16 MiB, with code, data that is mostly zero, and notes, the PVH one the second.
inline TestElf TestPvhElf() {
  constexpr uint64_t kHigh = 0xffffffff80000000, kText = 16 << 20, kData = 20 << 20;
  TestElf elf;
  elf.AddSegment(kText, 64, PF_X, std::string(64, '\x90')).p_vaddr = kHigh + kText;
  elf.AddSegment(kData, 1 << 20, PF_W, "data").p_vaddr = kHigh + kData;
  const std::string notes = TestNote("Linux", 257, "some") + TestPvhNote(kText + 16);
  elf.AddSegment(kText + 32, notes.size(), 0, notes).p_type = PT_NOTE;
  elf.header.e_entry = kText + 8;
  return elf;
}

inline std::string TestMultibootHeader(uint32_t flags, std::initializer_list<uint32_t> addresses = {}) {
  constexpr uint32_t kMagic = 0x1badb002;
  std::string header = RecordBytes(kMagic) + RecordBytes(flags) + RecordBytes(0 - kMagic - flags);
  for (const uint32_t address : addresses) header += RecordBytes(address);
  return header;
}

// As kvm-unit-tests has it: a 32-bit file, loaded to 4 MiB.
inline std::string TestMultibootElf32(uint32_t flags = 0) {
  constexpr uint32_t kText = 4 << 20;
  const std::string text = TestMultibootHeader(flags) + std::string(52, '\x90');
  Elf32_Ehdr header = {};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS32;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = ET_EXEC;
  header.e_machine = EM_386;
  header.e_version = EV_CURRENT;
  header.e_entry = kText + 12;
  header.e_phoff = sizeof(header);
  header.e_ehsize = sizeof(header);
  header.e_phentsize = sizeof(Elf32_Phdr);
  header.e_phnum = 1;
  Elf32_Phdr segment = {};
  segment.p_type = PT_LOAD;
  segment.p_offset = sizeof(header) + sizeof(segment);
  segment.p_vaddr = segment.p_paddr = kText;
  segment.p_filesz = text.size();
  segment.p_memsz = 1 << 20;
  return RecordBytes(header) + RecordBytes(segment) + text;
}

}  // namespace quire

#endif  // QUIRE_VMM_BOOT_TEST_KERNELS_H_
