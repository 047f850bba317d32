// Makes small ELF files for tests, whole ones and broken ones.
#ifndef QUIRE_VMM_KVM_TEST_ELF_H_
#define QUIRE_VMM_KVM_TEST_ELF_H_

#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace quire {

// An ELF64 file: `header`, then `segments`, then `content`. As made, it is a correct empty executable; tests add
// segments and then break whatever they like before asking for bytes().
struct TestElf {
  Elf64_Ehdr header = {};
  std::vector<Elf64_Phdr> segments;
  std::string content;

  TestElf() {
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_EXEC;
    header.e_machine = EM_X86_64;
    header.e_version = EV_CURRENT;
    header.e_phoff = sizeof(Elf64_Ehdr);
    header.e_ehsize = sizeof(Elf64_Ehdr);
    header.e_phentsize = sizeof(Elf64_Phdr);
  }

  // A segment of `size` bytes at `address` that begins with `bytes`. Its p_offset is relative to the content until
  // bytes() is called. Adds `flags` PF_R.
  Elf64_Phdr& AddSegment(uint64_t address, uint64_t size, uint32_t flags, const std::string& bytes = "") {
    Elf64_Phdr segment = {};
    segment.p_type = PT_LOAD;
    segment.p_flags = PF_R | flags;
    segment.p_offset = content.size();
    segment.p_vaddr = segment.p_paddr = address;
    segment.p_filesz = bytes.size();
    segment.p_memsz = size;
    segment.p_align = 1;
    content += bytes;
    segments.push_back(segment);
    ++header.e_phnum;
    return segments.back();
  }

  // The file. Offsets of segments are made relative to its beginning, those that point past the content too.
  std::string bytes() const {
    std::string file(reinterpret_cast<const char*>(&header), sizeof(header));
    const uint64_t content_at = sizeof(header) + segments.size() * sizeof(Elf64_Phdr);
    for (Elf64_Phdr segment : segments) {
      segment.p_offset += content_at;
      file.append(reinterpret_cast<const char*>(&segment), sizeof(segment));
    }
    return file + content;
  }
};

inline absl::Span<const std::byte> AsBytes(const std::string& text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

}  // namespace quire

#endif  // QUIRE_VMM_KVM_TEST_ELF_H_
