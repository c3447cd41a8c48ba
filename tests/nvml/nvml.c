/* The driver's library as 8 recorded GPUs answer it, for the library's own Python binding to load.

   The environment changes the recording: NVML_NAME and NVML_COUNT, NVML_INIT for the code that the start returns
   (9: driver not loaded) and NVML_LOST for the index of a GPU that has fallen off the bus; NVML_DRIVER for the driver's
   version and NVML_CUDA for the version of CUDA that its libcuda runs (12080; by default that of the driver, -1: there
   is no libcuda); NVML_USED for the GiB that are used of each GPU ("1,70"), or for the path of a file that says it; and
   NVML_PID for the process that uses them. Signatures and codes are those of NVML's public header. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int pid; unsigned long long used; unsigned int gpu_instance, compute_instance; } process_t;

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static int say(char *buffer, unsigned int size, const char *text) {
    if (strlen(text) >= size) return 7; /* insufficient size */
    strcpy(buffer, text);
    return 0;
}

static int index_of(void *device) { return (int)(long)device - 1; }

int nvmlInitWithFlags(unsigned int flags) { (void)flags; return number("NVML_INIT", 0); }
int nvmlInit_v2(void) { return number("NVML_INIT", 0); }
int nvmlShutdown(void) { return 0; }

int nvmlDeviceGetCount_v2(unsigned int *count) { *count = number("NVML_COUNT", 8); return 0; }

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
    if ((int)index >= number("NVML_COUNT", 8)) return 2; /* invalid argument */
    if ((int)index == number("NVML_LOST", -1)) return 15; /* GPU is lost */
    *device = (void *)(long)(index + 1);
    return 0;
}

int nvmlDeviceGetUUID(void *device, char *buffer, unsigned int size) {
    char text[64];
    snprintf(text, sizeof text, "GPU-00000000-0000-0000-0000-%012d", index_of(device));
    return say(buffer, size, text);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    for (int index = 0; index < number("NVML_COUNT", 8); index++) {
        char text[64];
        nvmlDeviceGetUUID((void *)(long)(index + 1), text, sizeof text);
        if (!strcmp(text, uuid)) return nvmlDeviceGetHandleByIndex_v2(index, device);
    }
    return 6; /* not found */
}

int nvmlDeviceGetName(void *device, char *buffer, unsigned int size) {
    const char *name = getenv("NVML_NAME");
    (void)device;
    return say(buffer, size, name ? name : "NVIDIA A100-SXM4-80GB");
}

static unsigned long long used(int index) {
    char text[256] = "";
    const char *given = getenv("NVML_USED");
    if (given && *given == '/') {
        FILE *file = fopen(given, "r");
        if (file) {
            if (!fgets(text, sizeof text, file)) *text = 0;
            fclose(file);
        }
    } else if (given) {
        snprintf(text, sizeof text, "%s", given);
    }
    char *at = text;
    while (index-- > 0 && at) at = (at = strchr(at, ',')) ? at + 1 : 0;
    return (at && *at ? strtoull(at, 0, 10) : 1) << 30;
}

int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    memory->total = 85899345920ULL;
    memory->used = used(index_of(device));
    memory->free = memory->total - memory->used;
    return 0;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned int *count, process_t *processes) {
    unsigned int capacity = *count, found = getenv("NVML_PID") && used(index_of(device)) > 1ULL << 30;
    *count = found;
    if (found > capacity) return 7; /* insufficient size */
    if (found) processes[0] = (process_t){number("NVML_PID", 0), used(index_of(device)), -1, -1};
    return 0;
}

static const char *driver(void) {
    const char *version = getenv("NVML_DRIVER");
    return version ? version : "570.124.06";
}

int nvmlSystemGetDriverVersion(char *buffer, unsigned int size) { return say(buffer, size, driver()); }

int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    int branch = atoi(driver());
    *version = number("NVML_CUDA", branch < 525 ? 11080 : branch < 580 ? 12080 : 13000);
    return *version < 0 ? 12 : 0; /* library not found */
}
