// What <stdint.h> has, which NVRTC has not
typedef signed char int8_t; typedef unsigned char uint8_t; typedef unsigned short uint16_t;
typedef int int32_t; typedef unsigned int uint32_t; typedef unsigned long long uint64_t;
