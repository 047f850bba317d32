// What a guest is to do: a workload and the content it fills its pages with. The same for all guests of a run.
#ifndef QUIRE_VMM_MACHINE_WORK_H_
#define QUIRE_VMM_MACHINE_WORK_H_

#include "base/units.h"
#include "workloads/content.h"
#include "workloads/content_file.h"
#include "workloads/fill_aux_area.h"
#include "workloads/workload_spec.h"

namespace quire {

struct Work {
  WorkloadSpec spec;
  uint64_t common_key = 0;            // of what all guests have alike
  uint64_t fresh_pairs = 64;          // how far generated content compresses
  const ContentFile* file = nullptr;  // or the file that content comes from

  // For a guest that sees the content file's pages at `file_pages`.
  AuxParameters ParametersFor(uint64_t key, const uint64_t* file_pages, ByteCount memory, int vcpus) const {
    Content content{.key = key, .common_key = common_key, .fresh_pairs = fresh_pairs};
    if (file != nullptr) {
      content.file_pages = file_pages;
      content.file_page_count = file->size().in_pages();
    }
    return {.spec = spec, .content = content, .memory = PageCount::Ceil(memory), .vcpus = static_cast<uint32_t>(vcpus)};
  }
};

}  // namespace quire

#endif  // QUIRE_VMM_MACHINE_WORK_H_
