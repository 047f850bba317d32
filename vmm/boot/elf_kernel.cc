#include "vmm/boot/elf_kernel.h"

#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "vmm/boot/pc_layout.h"

namespace quire {
namespace {

constexpr uint32_t kXenPhys32Entry = 18;          // XEN_ELFNOTE_PHYS32_ENTRY
constexpr absl::string_view kXen("Xen\0", 4);     // the zero is counted
constexpr uint64_t kLinuxCommandLine = 2048 - 1;  // COMMAND_LINE_SIZE: Linux cuts off what is longer, silently

// Linux has five program headers, and its notes take less than a page. The limits bound how long reading can take.
constexpr int kMaxProgramHeaders = 256;
constexpr uint64_t kMaxNotes = 64 << 10;

// The part of a program header that matters, of either class.
struct ProgramHeader {
  uint32_t type;
  uint64_t offset, vaddr, paddr, filesz, memsz, align;
};

template <class Phdr>
ProgramHeader Widen(const Phdr& header) {
  return {.type = header.p_type,
          .offset = header.p_offset,
          .vaddr = header.p_vaddr,
          .paddr = header.p_paddr,
          .filesz = header.p_filesz,
          .memsz = header.p_memsz,
          .align = header.p_align};
}

class Parser {
 public:
  explicit Parser(const FileView& file) : file_(file) {}

  absl::StatusOr<ElfKernel> Parse() &&;

 private:
  template <class Ehdr, class Phdr>
  absl::Status ReadHeaders();
  absl::Status ReadProgramHeader(const ProgramHeader& header);
  absl::Status AddSegment(const ProgramHeader& header);
  absl::Status ReadNotes(const ProgramHeader& header);
  void ReadNote(const Elf64_Nhdr& note, uint64_t name_at, uint64_t content_at);

  const FileView& file_;
  uint64_t virtual_entry_ = 0;
  ElfKernel kernel_;
};

template <class Ehdr, class Phdr>
absl::Status Parser::ReadHeaders() {
  const std::optional<Ehdr> header = file_.ReadAt<Ehdr>(0);
  if (!header) return file_.Error("truncated: the file ends within its ELF header");
  if (header->e_machine != EM_X86_64 && header->e_machine != EM_386) {
    return file_.Error("built for another machine (ELF machine ", header->e_machine, "): a guest runs x86-64 code");
  }
  if (header->e_type != ET_EXEC && header->e_type != ET_DYN) {
    return file_.Error("not an executable (ELF type ", header->e_type, ")");
  }
  if (header->e_phnum == 0 || header->e_phnum > kMaxProgramHeaders) {
    return file_.Error("has ", header->e_phnum, " program headers, expected 1 to ", kMaxProgramHeaders);
  }
  if (header->e_phentsize != sizeof(Phdr)) {
    return file_.Error("program headers of ", header->e_phentsize, " bytes, expected ", sizeof(Phdr));
  }
  if (!file_.Holds(header->e_phoff, header->e_phnum * sizeof(Phdr))) {
    return file_.Error("truncated: program headers at offset ", header->e_phoff, " in a file of ", file_.size(),
                       " bytes");
  }
  virtual_entry_ = header->e_entry;
  kernel_.entry = Gpa(header->e_entry);
  for (uint64_t i = 0; i < header->e_phnum; ++i) {
    const Phdr program_header = *file_.ReadAt<Phdr>(header->e_phoff + i * sizeof(Phdr));
    if (absl::Status status = ReadProgramHeader(Widen(program_header)); !status.ok()) return status;
  }
  return CheckSegments(file_, kernel_.segments);
}

absl::Status Parser::ReadProgramHeader(const ProgramHeader& header) {
  if (header.type != PT_LOAD && header.type != PT_NOTE) return absl::OkStatus();
  if (!file_.Holds(header.offset, header.filesz)) {
    return file_.Error("truncated: the segment of ", header.filesz, " bytes at offset ", header.offset,
                       " lies beyond the end of the file");
  }
  return header.type == PT_LOAD ? AddSegment(header) : ReadNotes(header);
}

absl::Status Parser::AddSegment(const ProgramHeader& header) {
  if (header.filesz > header.memsz) {
    return file_.Error("malformed: the segment at ", absl::StrFormat("0x%x", header.paddr), " has ", header.filesz,
                       " bytes in the file but takes only ", header.memsz);
  }
  kernel_.segments.push_back({.address = Gpa(header.paddr),
                              .size = ByteCount::Bytes(header.memsz),
                              .content = file_.Part(header.offset, header.filesz)});
  // The entry point of a kernel that runs elsewhere than it is loaded is a virtual address.
  if (header.vaddr <= virtual_entry_ && virtual_entry_ - header.vaddr < header.memsz) {
    kernel_.entry = Gpa(virtual_entry_ - header.vaddr + header.paddr);
  }
  return absl::OkStatus();
}

constexpr uint64_t AlignUp(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

absl::Status Parser::ReadNotes(const ProgramHeader& header) {
  if (header.filesz > kMaxNotes) {
    return file_.Error("has ", header.filesz, " bytes of notes, more than ", kMaxNotes, ", which no kernel has");
  }
  const uint64_t alignment = header.align == 8 ? 8 : 4;
  const uint64_t end = header.offset + header.filesz;
  for (uint64_t at = header.offset; at < end;) {
    // Elf32_Nhdr is the same.
    const std::optional<Elf64_Nhdr> note = file_.ReadAt<Elf64_Nhdr>(at);
    if (!note) return file_.Error("truncated: the file ends within a note");
    const uint64_t name_at = at + sizeof(Elf64_Nhdr);
    const uint64_t content_at = at + AlignUp(sizeof(Elf64_Nhdr) + note->n_namesz, alignment);
    if (content_at > end || note->n_descsz > end - content_at) {
      return file_.Error("malformed: a note at offset ", at, " reaches beyond the notes' end");
    }
    ReadNote(*note, name_at, content_at);
    at = content_at + AlignUp(note->n_descsz, alignment);
  }
  return absl::OkStatus();
}

// The address is as long as the kernel's pointers are; a 32-bit entry is in the low half.
void Parser::ReadNote(const Elf64_Nhdr& note, uint64_t name_at, uint64_t content_at) {
  if (note.n_type != kXenPhys32Entry || note.n_namesz != kXen.size() ||
      std::memcmp(file_.Part(name_at, kXen.size()).data(), kXen.data(), kXen.size()) != 0) {
    return;
  }
  if (note.n_descsz == sizeof(uint32_t)) kernel_.pvh_entry = Gpa(*file_.ReadAt<uint32_t>(content_at));
  if (note.n_descsz == sizeof(uint64_t)) kernel_.pvh_entry = Gpa(*file_.ReadAt<uint64_t>(content_at));
}

absl::StatusOr<ElfKernel> Parser::Parse() && {
  if (file_.size() < EI_NIDENT) return file_.Error("truncated: the file ends within its ELF header");
  const auto identity = [this](int index) { return std::to_integer<int>(file_.bytes()[index]); };
  if (identity(EI_DATA) != ELFDATA2LSB) return file_.Error("not little-endian: a kernel is built for x86-64");
  if (identity(EI_VERSION) != EV_CURRENT) return file_.Error("ELF version ", identity(EI_VERSION), ", expected 1");
  absl::Status status;
  if (identity(EI_CLASS) == ELFCLASS64) {
    status = ReadHeaders<Elf64_Ehdr, Elf64_Phdr>();
  } else if (identity(EI_CLASS) == ELFCLASS32) {
    status = ReadHeaders<Elf32_Ehdr, Elf32_Phdr>();
  } else {
    status = file_.Error("neither 32-bit nor 64-bit: ELF class ", identity(EI_CLASS));
  }
  if (!status.ok()) return status;
  return std::move(kernel_);
}

}  // namespace

bool LooksLikeElf(const FileView& file) { return file.StartsWith({ELFMAG, SELFMAG}); }

absl::StatusOr<ElfKernel> ParseElfKernel(const FileView& file) { return Parser(file).Parse(); }

absl::StatusOr<KernelImage> MakePvhImage(const FileView& file, const ElfKernel& kernel) {
  if (!HasContentAt(kernel.segments, *kernel.pvh_entry)) {
    return file.Error("malformed: the PVH entry point ", absl::StrFormat("0x%x", kernel.pvh_entry->value()),
                      " lies in no segment");
  }
  KernelImage image;
  image.format = KernelFormat::kPvhElf;
  image.name = std::string(file.name());
  image.segments = kernel.segments;
  image.entry = *kernel.pvh_entry;
  image.initrd_limit = kLowMemoryLimit;
  image.command_line_limit = ByteCount::Bytes(kLinuxCommandLine);
  return image;
}

}  // namespace quire
